"""How tokens are chosen and merged: what many methods share. No torch before one is called."""
