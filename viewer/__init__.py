"""The viewer: patients and samples on one page, with what models read and what they said."""
