"""From a parallel corpus to the folder that fairseq-train reads."""
