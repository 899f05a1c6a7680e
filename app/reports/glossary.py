"""The words of the report, for readers who do not work with statistics. Plain values."""

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "Control and variant",
        (
            "The control is what everybody had before. The other variants are what was tried. Chance alone"
            " decided who got which."
        ),
    ),
    (
        "Exposed user",
        "A user who had their variant by then. What the user did before that moment does not count.",
    ),
    (
        "Interval (confidence interval)",
        (
            "The range of values that fit the data. If experiments like this one were made again and again, 95 %"
            " intervals would hold the true value 19 times out of 20, if each was looked at once, at the end."
        ),
    ),
    (
        "Always-valid interval",
        (
            "A wider interval that keeps its promise however often one looks, also for those who stop as soon as"
            " they like what they see."
        ),
    ),
    (
        "Difference",
        "The variant's value minus the control's; of shares it is in percentage points (pp).",
    ),
    (
        "Lift",
        (
            "The difference as a share of the control's value. From 10 % to 11 % is a difference of 1 percentage"
            " point and a lift of 10 %."
        ),
    ),
    (
        "p-value",
        (
            "How often chance alone would bring a difference at least as large if the variants did the same. It"
            " is not the chance that the variant works."
        ),
    ),
    (
        "Adjusted p-values (Holm, BH)",
        (
            "Who looks at many numbers finds some that look special by chance. Holm makes one wrong alarm among"
            " all of them rare; Benjamini-Hochberg (BH) keeps the share of wrong alarms among the alarms small."
        ),
    ),
    (
        "Chance to be better",
        (
            "What one may believe after the data that the variant is truly better than the control, starting from"
            " the stated prior."
        ),
    ),
    (
        "Expected loss",
        (
            "How much of the metric is lost on average by shipping the variant if that is the wrong choice,"
            " weighed by how likely that is."
        ),
    ),
    (
        "CUPED",
        (
            "A comparison that takes out what users did before their exposure. It estimates the same difference"
            " with less noise."
        ),
    ),
    (
        "Sample ratio mismatch (SRM)",
        (
            "The variants do not have the shares of users that were planned. Then something went wrong in who was"
            " counted, and no number of the experiment can be trusted until it is known what."
        ),
    ),
    (
        "Guardrail",
        ("A metric that must not become worse by more than its margin. Holding means: the data show that it did not."),
    ),
    (
        "Sealed plan",
        (
            "What was promised before the start: metrics, sample size, when to decide. It has a hash, a"
            " fingerprint that would change with any letter of it, so that nobody can change the promise after"
            " seeing the data."
        ),
    ),
    (
        "Exploratory",
        "A metric that was added after the start. It can give ideas, and proves nothing.",
    ),
)
