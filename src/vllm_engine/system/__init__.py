"""This machine and this process: devices, limits, logging, standard streams."""
