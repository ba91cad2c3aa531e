"""An event loop whose clock is virtual: it jumps to the next timer when nothing is ready. Threads run in place."""

import asyncio
import selectors


class _Jump(selectors.DefaultSelector):
    """Waits for nothing: what would be waited is added to the loop's clock."""

    loop = None

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout:
            self.loop.now += timeout
        assert ready or timeout is not None, "everything waits for something that no timer brings"
        return ready


class Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        selector = _Jump()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self):
        return self.now

    def run_in_executor(self, executor, func, *args):
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except OSError as error:
            done.set_exception(error)
        return done


def run(main):
    """asyncio.run on a virtual clock; (result, seconds that passed there)."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main), runner.get_loop().now
