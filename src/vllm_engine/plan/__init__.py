"""What will run: settings, machine and model resolved into one command, and the problems found."""
