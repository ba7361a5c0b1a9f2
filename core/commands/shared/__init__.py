"""What several subcommands share: options, the terminal, outputs, exit statuses."""
