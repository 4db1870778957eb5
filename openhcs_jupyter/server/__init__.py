"""The execution server: jobs that outlive kernels, laptops and the server's own restart."""
