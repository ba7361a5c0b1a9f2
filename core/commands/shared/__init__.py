"""Code that several subcommands share: options, terminal, outputs, exit statuses, completion.

A subcommand's own code is in its module or folder beside this one.
"""
