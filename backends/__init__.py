"""One folder for each framework. Each compiles a `core.network.plan.Plan`; nothing else knows the framework."""
