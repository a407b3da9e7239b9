"""The paper's experiments beyond its tables, each a command that leaves a result file and a picture."""
