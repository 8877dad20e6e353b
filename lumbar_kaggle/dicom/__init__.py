"""From files to slices in the frame of the patient."""
