"""The command `midrib`, also as `python -m midrib.remote`: Ctrl-C ends it without a traceback while it starts."""

import signal


def main() -> None:
    """Run the command. The system, not Python, handles Ctrl-C while the command's modules are imported."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default:  # not ignored, as by `nohup`
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from midrib.remote import cli

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
