"""One folder a framework; each compiles the plan of `core.plan` and nothing else knows the framework."""
