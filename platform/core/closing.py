"""Whether this process has been asked to end. Streams that would last for ever end with it."""


class Closing:
    def __init__(self):
        self.begun = False

    def begin(self) -> None:
        self.begun = True


closing = Closing()
