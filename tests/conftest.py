"""What every test counts on."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Tests that a shell starts behind itself would hand on to every command they start that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
