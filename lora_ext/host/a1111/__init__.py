"""The web UI (AUTOMATIC1111 1.10.1, Forge and its kin) as a host. Only this package imports `modules.*`."""
