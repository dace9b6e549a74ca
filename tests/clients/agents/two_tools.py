"""The task of all agents here: two tools, of which the second needs what the first one says."""

QUESTION = "How warm is it in Paris, in degrees Fahrenheit?"
called = []


def get_celsius(city: str) -> float:
    """Tell the temperature of a city in degrees Celsius.

    Args:
        city: The name of the city.
    """
    called.append(("get_celsius", city))
    return 17.25


def to_fahrenheit(celsius: float) -> float:
    """Convert degrees Celsius to degrees Fahrenheit.

    Args:
        celsius: The temperature to convert.
    """
    called.append(("to_fahrenheit", celsius))
    return celsius * 9 / 5 + 32


def check(answer):
    """The agent has called both tools once, in order, and has answered with what they said."""
    assert called == [("get_celsius", "Paris"), ("to_fahrenheit", 17.25)], called
    assert "63.05" in str(answer), answer
    called.clear()
