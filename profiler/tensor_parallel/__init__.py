"""One request over several devices: processes that torchrun starts run it in step."""
