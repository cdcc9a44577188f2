"""The paper's questions: what is asked, the asking, what comes out, and its page and pictures."""
