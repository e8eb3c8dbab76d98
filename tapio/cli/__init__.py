"""The `tapio` command: one module for each command. It reads the data directory and never talks to the agent."""
