"""What a job's log says about rows that are not learnt completely. Standard library only."""


def sentences(rows_cut: int, rows_left_out: int, longest: int) -> list[str]:
    found = []
    if rows_cut:
        found.append(f"Rows longer than {longest} tokens, which are learnt without their end: {rows_cut}.")
    if rows_left_out:
        found.append(f"Rows of which nothing is learnt within {longest} tokens, which are left out: {rows_left_out}.")
    return found
