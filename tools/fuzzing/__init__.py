"""The parts of `tools/fuzz.py`: attacks on the commands of the program, and what is looked at afterwards."""
