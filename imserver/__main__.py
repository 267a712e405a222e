"""`python -m imserver` is the command `imserver`."""

from imserver.cli import main

if __name__ == "__main__":
    main(prog_name="imserver")
