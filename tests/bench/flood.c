// SPDX-License-Identifier: Apache-2.0
/* Asks flood.bpf.c for records at a steady rate: `flood RECORDS_A_SECOND SECONDS`. Prints how many it asked for. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SYSTEM_CALL 1000 /* none of this number exists */
#define RECORDS 100	 /* that one of them makes */

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	const struct timespec pause = {.tv_nsec = 500000};
	double start = now(), elapsed, seconds, rate;
	long asked = 0;

	if (argc != 3)
		return 2;
	rate = atof(argv[1]);
	seconds = atof(argv[2]);
	do {
		elapsed = now() - start;
		for (; asked + RECORDS <= elapsed * rate; asked += RECORDS)
			syscall(SYSTEM_CALL);
		nanosleep(&pause, NULL);
	} while (elapsed < seconds);
	printf("%ld %.6f\n", asked, now() - start);
	return 0;
}
