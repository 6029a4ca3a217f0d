"""Whether this process must stop. Endless streams then end."""


class Closing:
    def __init__(self):
        self.begun = False

    def begin(self) -> None:
        self.begun = True


closing = Closing()
