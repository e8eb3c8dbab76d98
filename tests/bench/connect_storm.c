// SPDX-License-Identifier: Apache-2.0
/* Refused connects as fast as one core can: `connect_storm TIMES PORT`. Prints the seconds it took. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in peer = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timespec start, end;

	if (argc != 3)
		return 2;
	peer.sin_port = htons(atoi(argv[2]));
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int left = atoi(argv[1]); left > 0; left--) {
		int client = socket(AF_INET, SOCK_STREAM, 0);

		if (client < 0 || connect(client, (struct sockaddr *)&peer, sizeof(peer)) == 0 || errno != ECONNREFUSED)
			return 1;
		close(client);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.6f\n", (end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) / 1e9);
	return 0;
}
