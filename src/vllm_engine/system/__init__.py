"""This machine and this process: device, files, logs and standard streams."""
