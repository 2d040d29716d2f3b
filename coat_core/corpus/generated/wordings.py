"""How the generated corpus asks. The tiny bases were taught the wordings of the tasks themselves, so there is something left to learn."""

from __future__ import annotations

WORDINGS: dict[str, tuple[str, ...]] = {
    "words": ("Write down every word.", "Which words were spoken?"),
    "first_word": ("Name the word at the start.", "Which word opens the recording?"),
    "last_word": ("Name the word at the end.", "Which word closes the recording?"),
    "sound": ("Name the sound.", "What made this noise?"),
    "count": ("The sound was made how many times?", "Give the number of occurrences."),
    "number": ("Give the number of sounds in digits.", "State the count as a number."),
    "first": ("Name the earlier sound.", "What is at the beginning?"),
    "last": ("Name the later sound.", "What is at the end of the recording?"),
    "heard": ("Does a {target} occur?", "Can a {target} be found here?"),
    "instrument": ("Name the instrument.", "What is being played?"),
    "register": ("How high are the notes?", "Which pitch range is used?"),
    "tempo": ("Name the speed of the music.", "At what speed are the notes played?"),
    "direction": ("Which way does the pitch move?", "Where does the melody go?"),
    "interval": ("How far apart are both notes?", "Judge the distance between the notes."),
    "style": ("Which mood is in the voice?", "Name the feeling of the person."),
    "arousal": ("How much energy is in the voice?", "Judge the activation of the voice."),
    "is_style": ("Would you call the person {target}?", "Is {target} the right word for this mood?"),
    "start": ("Judge the voice at the beginning.", "In which state does the person start?"),
    "end": ("Judge the voice at the end.", "In which state does the person stop?"),
    "change": ("Is there a shift in feeling?", "Do both halves differ in mood?"),
    "higher": ("Name the higher tone.", "Where is the higher pitch?"),
    "longer": ("Name the longer tone.", "Which one lasts more time?"),
    "louder": ("Name the louder tone.", "Which one has the larger level?"),
    "more": ("Name the most frequent sound.", "What dominates the recording?"),
    "total": ("State how many events occur.", "What is the sum of all sounds?"),
    "first_of_many": ("Name the opening sound.", "What comes before everything else?"),
    "same_speaker": ("Do both voices match?", "Is there only one person?"),
    "same_word": ("Do both words match?", "Is one word repeated?"),
    "second_word": ("Name the later word.", "What is said after the first word?"),
}
"""Wordings by task, with `{fact}` fields. Of each task there are as many as it has itself: the draws of a clip stay the same."""
