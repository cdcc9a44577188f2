"""The field's stopwatches: what each would have said of the same run."""
