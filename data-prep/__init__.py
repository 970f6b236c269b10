"""What each corpus needs, a module a corpus; see fairseq_dsp/preparation/corpora.py."""
