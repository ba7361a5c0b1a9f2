"""One folder for each framework. Each compiles a plan, and nothing else knows the framework."""
