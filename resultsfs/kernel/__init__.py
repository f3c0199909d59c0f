"""The transports: ways in which file operations reach `resultsfs.filesystem`."""
