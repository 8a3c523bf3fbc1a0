"""`python -m potsherd` is the command `potsherd`."""

from potsherd.cli.process import start

if __name__ == "__main__":
    start()
