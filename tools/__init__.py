"""What maintainers run: generators of documentation and data, pictures, set-up of test machines."""
