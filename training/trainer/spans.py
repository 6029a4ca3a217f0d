"""Where in a rendered conversation the assistant speaks, found by rendering how it begins.

For chat templates that do not mark it themselves (`{% generation %}`). Standard library only.
"""

from collections.abc import Callable

Conversation = list[dict[str, str]]
Render = Callable[[Conversation, bool], str]  # with the words that make the assistant speak, or without
Span = tuple[int, int]


def assistant_spans(conversation: Conversation, render: Render) -> tuple[str, list[Span]]:
    """The whole text, and from where to where in it what the assistant says, its end mark included.

    A template may show an earlier answer otherwise once the conversation has gone on (without its thoughts, say). Such
    an answer has no place that is sure and is not among the spans; nor has one that answers nothing.
    """
    whole = render(conversation, False)
    found = []
    for number, message in enumerate(conversation):
        if number and message["role"] == "assistant":
            before, through = render(conversation[:number], True), render(conversation[: number + 1], False)
            if whole.startswith(before) and whole.startswith(through) and len(through) > len(before):
                found.append((len(before), len(before) + len(through[len(before) :].rstrip())))
    return whole, found


def marked(offsets: list[Span], spans: list[Span]) -> list[bool]:
    """Which tokens, told by their places in the text, the assistant says."""
    return [any(start < until and end > since for since, until in spans) for start, end in offsets]
