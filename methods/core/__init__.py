"""The machinery of pruned forwards: plan, decision, engine. Methods themselves lie one level up."""
