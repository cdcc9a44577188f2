"""Models: shapes, what pictures become in them, and adapters to the engine's Decoder protocol."""
