"""GPUs, as the engine uses them: real ones through CuPy, and simulated ones."""
