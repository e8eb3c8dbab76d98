// SPDX-License-Identifier: Apache-2.0
/* Processes that fail at once, one after the other: `spawn_storm TIMES CODE`. Prints the seconds it took. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec start, end;

	if (argc != 3)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int left = atoi(argv[1]); left > 0; left--) {
		pid_t child = fork();

		if (child < 0)
			return 1;
		if (!child)
			_exit(atoi(argv[2]));
		if (waitpid(child, NULL, 0) != child)
			return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.6f\n", (end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) / 1e9);
	return 0;
}
