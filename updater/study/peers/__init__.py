"""Avalanche's own strategies on our model, tokens and optimizer, for the same table as our arms.

`library` imports Avalanche (the extra `study`), `tokens` makes language-model examples fit its
classification interface, `strategies` names what can be run, `learner` drives one strategy through
a stream, `student` is the arm that a study runs. Nothing of the service imports this package; a
study does, for its arms of kind "avalanche". What is equal to our arms and what is not stands in
`learner`.
"""
