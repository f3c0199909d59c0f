"""The server: serves the volumes that a holder hands it, all in one process, with as few privileges as that takes."""
