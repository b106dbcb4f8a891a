"""What of a conversation reached the model."""


def sent_text(model):
    """All messages of the newest request, as one text."""
    return "\n".join(text for _, text in model.conversations[-1].messages)


def assert_context(model, *texts):
    """Each text was in the newest request, in this order."""
    sent = sent_text(model)
    at = 0
    for text in texts:
        found = sent.find(text, at)
        assert found >= 0, f"{text!r} did not reach the model after position {at} of:\n{sent[:4000]}"
        at = found + len(text)


def times_prompted(model, text):
    """How often the text stands in messages of the user in the newest request."""
    return sum(prompt.count(text) for prompt in model.conversations[-1].prompts)
