"""What is said of a study, in forms that other systems read: JSON and DICOM structured reports."""
