"""monitor: has what a model sees, says or is worth changed, and is it time to train again?"""
