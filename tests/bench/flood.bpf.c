
/*
 * Added to network_monitor.c by tests/bench/hooks.py: a system call that does not exist makes 100 records of
 * refused connects to 16 peers. For every other call it is an empty program, whose run time is the statistics' own.
 */
DEFINE_COUNTERS(sys_enter);

SEC("tp_btf/sys_enter")
int sys_enter(__u64 *ctx)
{
	struct hook_counters *counters = counters_of(sys_enter_counters);

	counters->hits++;
	if (ctx[1] != 1000)
		return 0;
	for (int number = 0; number < 100; number++) {
		struct reservation r = reserve(sizeof(struct connection_failed_record), counters, ORDINARY);
		struct connection_failed_record *record = r.record;

		if (!record)
			continue;
		record->kind = RECORD_CONNECTION_FAILED;
		record->error = ECONNREFUSED;
		record->old_state = TCP_SYN_SENT;
		record->boot_ns = bpf_ktime_get_boot_ns();
		record->socket.cgroup_id = 7;
		record->socket.pid = 7;
		__builtin_memcpy(record->socket.comm, "flood", 6);
		record->socket.family = 2;
		record->socket.side = SIDE_CONNECTED;
		record->socket.local_address[0] = record->socket.peer_address[0] = 127;
		record->socket.local_address[3] = 1;
		record->socket.peer_address[3] = number & 15;
		record->socket.local_port = 1024 + number;
		record->socket.peer_port = 9;
		submit(r, counters);
	}
	return 0;
}
