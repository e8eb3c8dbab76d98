"""All that touches the kernel: loading and attaching, mapped memory, privileges."""
