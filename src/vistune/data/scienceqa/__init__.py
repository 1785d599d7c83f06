"""ScienceQA (Lu et al., 2022): multiple-choice questions with pictures, contexts, lectures and solutions."""
