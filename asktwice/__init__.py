"""The command line, the one-process embedded mode and the web pages."""
