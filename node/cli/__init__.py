"""The `clove` command. Nothing heavy is imported until a command needs it: `clove --help` is instant."""


def main() -> None:
    """Run the command line of this process."""
    from node.cli.app import run

    run()
