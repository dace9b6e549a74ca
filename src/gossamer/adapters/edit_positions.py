"""Which positions of a prompt an intervention edits. Plain arithmetic."""


def positions_to_edit(num_prompt: int, first: int, last: int) -> tuple[int, int]:
    """Count the first and the last positions of a prompt that are edited.

    A prompt shorter than first + last shares its positions out, the greater half to the last
    (arXiv:2404.03592): none is edited twice.
    """
    if num_prompt >= first + last:
        return first, last
    return min(first, num_prompt // 2), min(last, -(-num_prompt // 2))


def positions_independent_of_end(num_prompt: int, first: int, last: int) -> int:
    """Count leading positions whose states are the same for every longer prompt that begins alike.

    From the first position that is edited as one of the last ones, or as one of the first only
    because the prompt is long enough, states depend on where the prompt ends.
    """
    edited_first, edited_last = positions_to_edit(num_prompt, first, last)
    if edited_first < first:
        return min(edited_first, num_prompt - edited_last)
    return num_prompt - edited_last
