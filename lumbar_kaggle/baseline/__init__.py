"""The baseline recipe: 25 image classifiers on the middle slice of the sagittal T1 series.

It follows a project report step by step. Where the report's order of steps inflates its accuracy (it upsampled before
it split), ``protocol="honest"`` does it right and ``protocol="report"`` shows the inflation."""
