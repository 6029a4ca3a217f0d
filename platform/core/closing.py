"""Whether this process must stop. Endless streams then end."""


class ShutdownFlag:
    def __init__(self):
        self.begun = False

    def begin(self) -> None:
        self.begun = True


shutdown = ShutdownFlag()
