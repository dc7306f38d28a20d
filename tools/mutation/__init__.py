"""Mutants of kernels, optimizers, schedules and samplers: small deliberate mistakes that the tests must see."""
